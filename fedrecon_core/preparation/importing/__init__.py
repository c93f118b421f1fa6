"""A table and folders of files of any owner, with a mapping that says what they mean, as site folders."""
