import re

# Passwords in a URL: the text between user name and host; on the web also the user name, which may be a token; and
# parameters in which databases and servers take a password.
_PASSWORD = re.compile(
    r"(://[^\s:/@]*:|https?://(?=[^\s:/@]+@))(?:[^\s@]*@)+"
    r"|([?&;](?:[\w-]*(?:password|passwd|pwd|token|secret|api[_-]?key|signature|credentials?)|pass|auth|key|sig)=)"
    r"[^\s&;'\"]*",
    re.IGNORECASE,
)
_LONGEST = 2000  # characters of a message


class UserError(Exception):
    """An error that the user can correct, in one sentence.

    The command line prints the message without a traceback. It names what is wrong, where (file, record,
    column or key), and what to do. Passwords in URLs are left out. Control characters are escaped.
    """

    def __str__(self) -> str:
        return shown(without_passwords(super().__str__()))


def shown(text: str) -> str:
    """A text as one line for a terminal: unprintable characters are escaped, and a long text is cut."""
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def without_passwords(text: str) -> str:
    """A text with ``***`` in place of each password in a URL."""
    return _PASSWORD.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)


def summarised(error: BaseException) -> str:
    """The first line of an error's message, without passwords; the name of its class if the message is empty."""
    return without_passwords((str(error).strip() or type(error).__name__).splitlines()[0])


def first_line(error: BaseException) -> str:
    """An error in one line, with the name of its class unless it is a `UserError`."""
    return summarised(error) if isinstance(error, UserError) else f"{type(error).__name__}: {summarised(error)}"
