import re

# Of a URL: what stands between the user's name and the host, or for a user's name on the web, where it is a token, and
# parameters that databases and servers take for it.
_PASSWORD = re.compile(
    r"(://[^\s:/@]*:|https?://(?=[^\s:/@]+@))(?:[^\s@]*@)+"
    r"|([?&;](?:[\w-]*(?:password|passwd|pwd|token|secret|api[_-]?key|signature|credentials?)|pass|auth|key|sig)=)"
    r"[^\s&;'\"]*",
    re.IGNORECASE,
)
_LONGEST = 2000  # characters of a message


class UserError(Exception):
    """Something that the user can mend, said in one sentence.

    The command line prints the message without a traceback. It names what is wrong, where (file, record,
    column or key), and what to do. Passwords in URLs are left out, and a file's odd text cannot move the cursor.
    """

    def __str__(self) -> str:
        return shown(without_passwords(super().__str__()))


def shown(text: str) -> str:
    """A text as one line of a terminal: what cannot be printed as an escape, and not endless."""
    line = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def without_passwords(text: str) -> str:
    """A text in which ``***`` stands for each password of a URL."""
    return _PASSWORD.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)


def summarised(error: BaseException) -> str:
    """The first line of what an error says, without passwords; its kind where it says nothing."""
    return without_passwords((str(error).strip() or type(error).__name__).splitlines()[0])


def first_line(error: BaseException) -> str:
    """What an error says, in one line: with its kind where it is no `UserError`."""
    return summarised(error) if isinstance(error, UserError) else f"{type(error).__name__}: {summarised(error)}"
