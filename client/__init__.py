"""The site: a ClientApp that answers the server's messages with the local loop on the site's own data."""
