"""The command ``lossc``: one file a verb."""
