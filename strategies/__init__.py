"""Shared by server and sites: strategies with their local halves, the messages, the code hash."""
