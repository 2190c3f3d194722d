"""Writes a wheel: TREE WHEEL VERSION PLATFORM. The tree has bin, lib and share."""

import base64
import hashlib
import os
import sys
import zipfile

tree, wheel, version, platform = sys.argv[1:]
name = f"mlxlm-{version}"
readme = open(os.path.join(tree, "share/doc/mlxlm/README.md"), encoding="utf-8").read()
metadata = f"""Metadata-Version: 2.4
Name: mlxlm
Version: {version}
Summary: Language models on MLX: generate, chat, convert and serve, in one binary
License-Expression: MIT OR Apache-2.0
Project-URL: Repository, https://github.com/mlxlm/mlxlm
Requires-Python: >=3.8
Description-Content-Type: text/markdown

{readme}"""
tags = f"Wheel-Version: 1.0\nGenerator: mlxlm\nRoot-Is-Purelib: false\nTag: py3-none-{platform}\n"

records = []


def add(archive, path, data, mode=0o644):
    entry = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
    entry.external_attr = (0o100000 | mode) << 16
    archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    records.append(f"{path},sha256={digest},{len(data)}\n")


with zipfile.ZipFile(wheel + ".tmp", "w") as archive:
    for folder, folders, files in os.walk(tree):
        folders.sort()
        for file in sorted(files):
            path = os.path.join(folder, file)
            inside = os.path.relpath(path, tree)
            is_program = inside.startswith("bin/")
            place = "scripts" + inside[len("bin"):] if is_program else "data/" + inside
            add(archive, f"{name}.data/{place}", open(path, "rb").read(), 0o755 if is_program else 0o644)
    for file in ("LICENSE-MIT", "LICENSE-APACHE"):
        add(archive, f"{name}.dist-info/licenses/{file}", open(os.path.join(tree, "share/doc/mlxlm", file), "rb").read())
    add(archive, f"{name}.dist-info/METADATA", metadata.encode())
    add(archive, f"{name}.dist-info/WHEEL", tags.encode())
    records.append(f"{name}.dist-info/RECORD,,\n")
    archive.writestr(zipfile.ZipInfo(f"{name}.dist-info/RECORD", (2020, 1, 1, 0, 0, 0)), "".join(records))
os.replace(wheel + ".tmp", wheel)
