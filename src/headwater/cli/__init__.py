"""The command `headwater`: one file per command. Nothing is imported before the command that needs it is asked for."""
