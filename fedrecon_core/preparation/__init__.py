"""From files as their owners have them to a site folder: what must be there, how it is read, and the writing of it."""
