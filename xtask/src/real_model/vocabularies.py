"""The vocabularies in the sources of llama-cpp-python: python3 -c … PACKAGE VERSION FOLDER

`pip download` would build what it downloads as sources, so pip's own parts find and fetch the archive, with the settings of pip.
"""

import hashlib
import pathlib
import sys
import tarfile
import tempfile

from pip._internal.commands.download import DownloadCommand

package, version, folder = sys.argv[1:]
command = DownloadCommand("download", "")
options, _ = command.parse_args(["--no-binary", ":all:", package])
with command.main_context(), tempfile.TemporaryFile() as archive:
    session = command.get_default_session(options)
    found = command._build_package_finder(options, session).find_all_candidates(package)
    links = [one.link for one in found if str(one.version) == version and one.link.filename.endswith(".tar.gz")]
    if not links:
        sys.exit(f"there are no sources of {package} {version}")
    response = session.get(links[0].url_without_fragment, headers={"Accept-Encoding": "identity"}, stream=True)
    response.raise_for_status()
    digest = hashlib.sha256()
    for piece in response.iter_content(1 << 20):
        digest.update(piece)
        archive.write(piece)
    if links[0].hash_name == "sha256" and digest.hexdigest() != links[0].hash:
        sys.exit(f"the sources of {package} {version} are not those that the index names")
    archive.seek(0)
    with tarfile.open(fileobj=archive, mode="r:gz") as sources:
        for member in sources:
            path = pathlib.PurePosixPath(member.name)
            if member.isfile() and path.name.startswith("ggml-vocab-") and path.parent.name == "models":
                (pathlib.Path(folder) / path.name).write_bytes(sources.extractfile(member).read())
