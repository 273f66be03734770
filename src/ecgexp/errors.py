class UserError(Exception):
    """Something that the user can mend, said in one sentence.

    The command line prints the message without a traceback. It names what is wrong, where (file, record,
    column or key), and what to do.
    """
