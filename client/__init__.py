"""The site: a ClientApp that handles the server's messages by running the local loop on the site's own data."""
