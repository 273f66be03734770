"""Hashes patient identifiers for runs, with a key that stays on this machine."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets

import numpy as np
from numpy.typing import NDArray

from ecgexp.errors import UserError, summarised
from ecgexp.tracking.store import Store

KEY = "patients.key"
_BYTES = 32
_DIGITS = 16  # 64 bits: any two of a million patients have the same hash in 1 of 37 million stores


def hashed_patients(store: Store, patients: NDArray[np.str_]) -> NDArray[np.str_]:
    """Keyed hashes of patient identifiers, equal for equal patients in all runs of a store.

    Without the key, nobody can find a patient by hashing names. A missing key is created; only its owner can read it.

    Parameters
    ----------
    store : Store
        Store whose folder on this machine contains the key.
    patients : str array, (records,)
        Identifiers in the data set.

    Returns
    -------
    str array, (records,)
        16 hexadecimal digits each: HMAC with SHA-256, truncated.

    Raises
    ------
    UserError
        If the key cannot be created or read.
    """
    key = _key(store)
    names, where = np.unique(patients.astype(str), return_inverse=True)
    hashes = [hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:_DIGITS] for name in names.tolist()]
    return np.array(hashes)[where]


def _key(store: Store) -> bytes:
    path = store.root / KEY
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        with store.lock(KEY):
            if not path.exists():
                temporary = path.with_name(f"{KEY}.part")
                temporary.unlink(missing_ok=True)
                with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                    file.write(secrets.token_hex(_BYTES))
                temporary.replace(path)
        key = bytes.fromhex(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"The key of patient identifiers {path} cannot be used: {summarised(error)}.") from error
    if len(key) != _BYTES:
        raise UserError(
            f"{path} is damaged: restore it, or remove it; without it patients get other hashes from now on."
        )
    return key
