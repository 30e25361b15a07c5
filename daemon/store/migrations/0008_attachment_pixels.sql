-- How large an attached image is, in pixels: listings leave its data out. 0 for other files.
ALTER TABLE chat_attachments ADD COLUMN width INTEGER NOT NULL DEFAULT 0;
ALTER TABLE chat_attachments ADD COLUMN height INTEGER NOT NULL DEFAULT 0;
