class UserError(Exception):
    """Something that the user can mend, said in one sentence.

    The command line prints the message without a traceback. It names what is wrong, where (file, record,
    column or key), and what to do.
    """


def said(error: BaseException) -> str:
    """The first line of what an error says; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def first_line(error: BaseException) -> str:
    """What an error says, in one line: with its kind where it is no `UserError`."""
    return said(error) if isinstance(error, UserError) else f"{type(error).__name__}: {said(error)}"
