"""The one error that the command line turns into a sentence."""


class UserError(Exception):
    """Something that the user can mend: the message names the thing and what would be accepted."""
