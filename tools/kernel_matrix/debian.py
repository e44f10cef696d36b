# SPDX-License-Identifier: MIT
"""Kernels and user lands from Debian packages, kept in a cache folder.

What it is: apt with a separate state, so that it can fetch any suite and architecture without touching the
machine's; kernel images; trees with CPython, pytest and hypothesis.
Must not know: how a guest is booted.
Invariant: packages are unpacked and never installed: none of their scripts runs, no foreign program is
executed. Everything in the cache is complete, because it is made under another name and moved there.
Read next: guest.py.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from .cells import Cell

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
WHEELS = ("pytest", "hypothesis", "fastjsonschema")
PACKAGES = ("busybox-static", "libatomic1")

# Packages on which the others depend only for their installation.
_SKIP = re.compile(
    r"(perl|debconf|dpkg|tar|debianutils|init-system-helpers|gcc-.*-base|libdebconf|mawk|sed|coreutils"
    r"|media-types|mime-support|readline-common|mailcap)[_-]"
)
_UNWANTED = re.compile(
    r"usr/share/(doc|man|locale|lintian|i18n|perl|bash-completion|info|zoneinfo)|usr/lib/[^/]*/(gconv|perl)"
    r"|usr/lib/locale/(?!C[.])|usr/lib/python3[^/]*/(lib2to3|idlelib|ensurepip|pydoc_data|tkinter|turtledemo|test)/"
)
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32")


class NotToBeHad(Exception):
    """Raised when a cell cannot be built here: no tool, no network, no such package."""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program and return its output; raise NotToBeHad if it fails."""
    try:
        done = subprocess.run(
            [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=900
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotToBeHad(f"{command[0]}: {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["failed"]
        raise NotToBeHad(f"{Path(command[0]).name}: {said[-1]}")
    return done.stdout


class Apt:
    """Run apt for one suite and architecture, or "source", with separate lists and a separate cache."""

    def __init__(self, cache: Path, suite: str, machine: str, mirror: str | None) -> None:
        """Write the configuration; the lists are fetched by the first query."""
        self.home = cache / "apt" / f"{suite}-{machine}"
        self.archives = self.home / "cache" / "archives"
        for folder in ("lists/partial", "cache/archives/partial", "etc/preferences.d"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        kind = "deb-src" if machine == "source" else f"deb\nArchitectures: {machine}"
        source = (
            f"Types: {kind}\nURIs: {mirror or configured_mirror()}\nSuites: {suite}\nComponents: main\n"
            f"Signed-By: {KEYRING}\n"
        )
        (self.home / "etc" / "own.sources").write_text(source, encoding="ascii")
        places = {
            "Dir::Etc::sourcelist": self.home / "etc" / "own.sources", "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": self.home / "etc/preferences.d",
            "Dir::State": self.home, "Dir::State::lists": self.home / "lists",
            "Dir::State::status": "/dev/null", "Dir::Cache": self.home / "cache",
            **({} if machine == "source" else {"APT::Architecture": machine, "APT::Architectures": machine}),
            "Acquire::Languages": "none",
            "APT::Install-Recommends": 0, "APT::Sandbox::User": "root", "Debug::NoLocking": 1,
            "Acquire::By-Hash": "force", "Acquire::Retries": 3,  # a mirror may be in the middle of an update
        }  # fmt: skip
        self.options = [word for key, value in places.items() for word in ("-o", f"{key}={value}")]
        if not list((self.home / "lists").glob("*_Sources*" if machine == "source" else "*_Packages*")):
            run("apt-get", *self.options, "-qq", "update")

    def names(self, prefix: str) -> list[str]:
        """List the packages with a prefix."""
        return run("apt-cache", *self.options, "pkgnames", prefix).split()

    def closure(self, packages: Iterable[str]) -> list[Path]:
        """Download packages with all their dependencies."""
        run("apt-get", *self.options, "-qq", "-y", "--download-only", "install", *packages)
        # Without a cache apt names all of them, not only those missing after an older run.
        listed = run(
            "apt-get", *self.options, "-qq", "-y", "--print-uris", "-o", "Dir::Cache::archives=/nonexistent/",
            "install", *packages,
        )  # fmt: skip
        files = [line.split()[1] for line in listed.splitlines() if line.startswith("'")]
        return [self.archives / name for name in files if not _SKIP.match(name)]

    def download(self, package: str, folder: Path) -> Path:
        """Download one package."""
        folder.mkdir(parents=True, exist_ok=True)
        run("apt-get", *self.options, "-qq", "download", package, cwd=folder)
        return max(folder.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)


def configured_mirror() -> str:
    """Return the Debian mirror of this machine's own sources."""
    form = "$(REPO_URI) $(RELEASE) $(ORIGIN)"
    rows = run("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    for row in rows.splitlines():
        uri, release, *origin = row.split()
        if origin == ["Debian"] and not release.endswith(("-security", "-updates")):
            return uri
    raise NotToBeHad("this machine's apt has no Debian mirror: name one with --mirror")


def members(package: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the files of a package."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process, tarfile.open(
        fileobj=process.stdout, mode="r|"
    ) as tar:
        for member in tar:
            yield tar, member
    if process.returncode:
        raise NotToBeHad(f"{package.name}: dpkg-deb failed")


def kernel(cache: Path, cell: Cell, mirror: str | None) -> Path:
    """Return the kernel image of a cell; the package's name is in ``package`` next to it."""
    place = cache / "kernels" / f"{cell.suite}-{cell.machine}-{re.sub(r'[^A-Za-z0-9.]+', '_', cell.package)}"
    if (place / "vmlinuz").exists():
        return place / "vmlinuz"
    machine = "amd64" if cell.machine == "uml" else cell.machine
    apt = Apt(cache, cell.suite, machine, mirror)
    prefix = "user-mode-linux" if cell.machine == "uml" else "linux-"
    found = [name for name in apt.names(prefix) if re.fullmatch(cell.package, name)]
    if not found:
        raise NotToBeHad(f"{cell.suite} has no package {cell.package} for {machine}")
    failure: Exception = NotToBeHad(cell.package)
    # A mirror that is being updated may list packages that it does not yet serve.
    for name in sorted(found, key=_by_version, reverse=True)[:4]:
        try:
            package = apt.download(name, cache / "debs")
            break
        except NotToBeHad as error:
            failure = error
    else:
        raise failure
    building = Path(f"{place}.new")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    images = r"linux\.uml$" if cell.machine == "uml" else r"(boot/vmlinu[xz][^/]*|lib/modules/[^/]+/vmlinuz)$"
    wanted = re.compile(images)
    for tar, member in members(package):
        source = tar.extractfile(member) if member.isfile() and wanted.search(member.name) else None
        if source:
            (building / "vmlinuz").write_bytes(unpacked(source.read()))
    if not (building / "vmlinuz").exists():
        raise NotToBeHad(f"{package.name} holds no kernel")
    (building / "package").write_text(package.name, encoding="ascii")
    if cell.machine == "uml":
        (building / "vmlinuz").chmod(0o755)
        _with_its_own_libc(building, apt)
    building.rename(place)
    return place / "vmlinuz"


def unpacked(image: bytes) -> bytes:
    """Extract the kernel from an EFI program that unpacks it with zstd, which qemu 10 cannot do itself.

    Source: linux drivers/firmware/efi/libstub/zboot-header.S
    """
    if image[:2] != b"MZ" or image[4:8] != b"zimg" or image[24:29] != b"zstd\0":
        return image
    offset, size = struct.unpack_from("<II", image, 8)
    command = ["zstd", "--decompress", "--stdout"]
    try:
        done = subprocess.run(command, input=image[offset : offset + size], capture_output=True, check=False)
    except OSError as error:
        raise NotToBeHad(f"zstd: {error}") from None
    if done.returncode:
        raise NotToBeHad(f"zstd: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout


def _by_version(name: str) -> list[tuple[int, str]]:
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)]


def _with_its_own_libc(place: Path, apt: Apt) -> None:
    """Give a user-mode kernel, which is a program, its suite's C library if this machine's is too old."""
    program = place / "vmlinuz"
    if subprocess.run([str(program), "--version"], capture_output=True, check=False).returncode == 0:
        return
    for tar, member in members(apt.download("libc6", place)):
        name = Path(member.name).name
        source = tar.extractfile(member) if member.isfile() and name in _LIBC else None
        if source:
            (place / name).write_bytes(source.read())
            (place / name).chmod(0o755)
    # The folder is moved when it is complete.
    home = place.with_name(place.name[: -len(".new")])
    run("patchelf", "--set-interpreter", home / _LIBC[0], "--set-rpath", home, program)


_LIBC = ("ld-linux-x86-64.so.2", "libc.so.6")


def _packages_of(python: str) -> tuple[str, ...]:
    if python == "pypy3":
        return ("pypy3", "pypy3-lib", "libc-bin", *PACKAGES)  # for the locale C.UTF-8
    return (f"{python}-minimal", f"lib{python}-stdlib", *PACKAGES)


def root(cache: Path, suite: str, machine: str, mirror: str | None, python: str = "python3") -> Path:
    """Return a tree with a Python, a shell, pytest and hypothesis."""
    place = cache / "roots" / f"{suite}-{machine}{'' if python == 'python3' else f'-{python}'}"
    if place.exists():
        return place
    building = Path(f"{place}.new")
    shutil.rmtree(building, ignore_errors=True)
    for folder in ("usr", "proc", "sys", "dev", "tmp", "root", "run", "etc", "project"):
        (building / folder).mkdir(parents=True)
    for name in _MERGED:
        (building / "usr" / name).mkdir()
        (building / name).symlink_to(f"usr/{name}")
    for package in Apt(cache, suite, machine, mirror).closure(_packages_of(python)):
        _unpack(package, building)
    named = r"pypy3\.\d+" if python == "pypy3" else r"python3\.\d+"
    lib = building / "usr/lib"
    version = max(
        (path.name for path in lib.iterdir() if re.fullmatch(named, path.name)),
        key=lambda name: (name == python, int(name.rpartition(".")[2])),
    )
    (building / "usr/bin/python3").unlink(missing_ok=True)
    (building / "usr/bin/python3").symlink_to("pypy3" if python == "pypy3" else version)
    packages = building / "usr/local/lib" / version / "dist-packages"
    packages.mkdir(parents=True)
    for wheel in _wheels(cache, f"3.{version.rpartition('.')[2]}"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
    (building / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", encoding="ascii"
    )
    (building / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n", encoding="ascii")
    (building / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n", encoding="ascii")
    services = "hosts: files\npasswd: files\ngroup: files\n"
    (building / "etc/nsswitch.conf").write_text(services, encoding="ascii")
    if machine == "amd64":
        _compile(building, version)
    else:
        _borrow_byte_code(building, root(cache, suite, "amd64", mirror, python))
    building.rename(place)
    return place


def _unpack(package: Path, tree: Path) -> None:
    for tar, member in members(package):
        name = member.name.lstrip("./")
        if name.split("/")[0] in _MERGED:
            name = f"usr/{name}"
        target = tree / name
        if not name or name in [f"usr/{folder}" for folder in _MERGED] or _UNWANTED.match(name):
            continue
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or target.exists():
            target.unlink()
        if member.issym():
            target.symlink_to(member.linkname)
        elif member.islnk():
            other = member.linkname.lstrip("./")
            shutil.copyfile(tree / (f"usr/{other}" if other.split("/")[0] in _MERGED else other), target)
        else:
            source = tar.extractfile(member)
            if source:
                target.write_bytes(source.read())
                target.chmod(member.mode | 0o600)


def _wheels(cache: Path, version: str) -> list[Path]:
    folder = cache / "wheels" / version
    if not list(folder.glob("pytest-*.whl")):
        old = ("exceptiongroup", "tomli", "typing-extensions") if int(version[2:]) < 11 else ()
        run(
            sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--platform", "any",
            "--python-version", version, "--implementation", "py", "--abi", "none", "-d", folder,
            *WHEELS, *old,
        )  # fmt: skip
    return sorted(folder.glob("*.whl"))


def _compile(tree: Path, version: str) -> None:
    """Make byte code, which saves an emulated guest minutes. Only a tree for this machine can do that."""
    code = f"""
import compileall, os, py_compile
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = "/usr/share/hypothesis"
for folder in "/usr/lib/{version}", "/usr/local/lib/{version}/dist-packages":
    compileall.compile_dir(folder, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
from hypothesis.internal.charmap import charmap
charmap()  # a table that hypothesis takes long to make
"""
    chroot = ["chroot"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "chroot"]
    # If that fails, everything still works, but takes longer.
    command = [*chroot, str(tree), "/usr/bin/python3", "-B", "-c", code]
    subprocess.run(command, capture_output=True, check=False)


def _borrow_byte_code(tree: Path, other: Path) -> None:
    """Copy the byte code of identical sources; it does not depend on the machine."""
    for compiled in other.rglob("__pycache__/*.pyc"):
        source = compiled.parent.parent / f"{compiled.name.split('.')[0]}.py"
        mine = tree / source.relative_to(other)
        if mine.exists() and source.exists() and mine.read_bytes() == source.read_bytes():
            target = tree / compiled.relative_to(other)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(compiled, target)
    data = other / "usr/share/hypothesis"
    if data.exists():
        shutil.copytree(data, tree / "usr/share/hypothesis", dirs_exist_ok=True)
