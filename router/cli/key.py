"""`dualmap key`: make an API key. The key itself is shown once and kept nowhere."""

import argparse
from secrets import token_urlsafe

from dualmap.router.access.api_keys import KEY_PREFIX, hash_key

KEY_BYTES = 32
EXAMPLES = ("dualmap key search-team",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    owner = parser.add_argument_group("owner")
    owner.add_argument("tenant", metavar="TENANT", help="whose requests it is for")


def run(args: argparse.Namespace) -> int:
    key = KEY_PREFIX + token_urlsafe(KEY_BYTES)
    print(f"key, for the client: {key}")
    print("for the file that gateway.api_keys_file names, below `keys:`")
    print(f"  - sha256: {hash_key(key.encode())}")
    print(f"    tenant: {args.tenant}")
    return 0
