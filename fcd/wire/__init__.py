"""Message types that cross a socket or a pipe, as msgspec structs."""
