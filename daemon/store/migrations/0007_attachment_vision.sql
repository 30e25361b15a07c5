-- Whether the models of an attached server see images.
ALTER TABLE attachments ADD COLUMN vision INTEGER NOT NULL DEFAULT 0;
