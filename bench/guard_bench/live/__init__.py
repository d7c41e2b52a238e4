"""`guard bench live`: what live moderation promises, measured."""
