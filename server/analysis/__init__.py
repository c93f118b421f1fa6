"""The cells of a sweep side by side: tables and figures of scores, of what they cost, and of what sets them apart.

``server.report`` shows one run, and lends its formats, its markup and its charts; what compares runs is here.
"""
