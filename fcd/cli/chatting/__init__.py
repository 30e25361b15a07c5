"""`fcd chat`: asking, answering, and the conversation around it."""
