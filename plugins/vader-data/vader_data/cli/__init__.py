"""The commands of ``vader data``: one file per command, imported when it is called."""
