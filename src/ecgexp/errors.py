class UserError(Exception):
    """Something that the user can mend, said in one sentence.

    The command line prints the message without a traceback. It names what is wrong, where (file, record,
    column or key), and what to do.
    """


def first_line(error: BaseException | None) -> str:
    """What an error says, in one line: with its kind where it is no `UserError`."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
