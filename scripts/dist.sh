#!/usr/bin/env bash
# Makes a release: dist.sh PROGRAM FOLDER (COMPRESSION=1 is faster than 9) writes FOLDER/skep-VERSION-MACHINE-linux.tar.gz and its checksum. What is in it is the same for the same
# program: names are sorted, times are those of the commit.
set -euo pipefail
program=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
cd "$(dirname "$0")/.."
version=$("$program" --version | awk '{print $2}')
name=skep-$version-$(uname -m)-linux
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
to=$work/$name
mkdir -p "$to/bin" "$to/completions" "$to/systemd"
install -m 755 "$program" "$to/bin/skep"
# Where a crash was is in the tables that stay; debuggers' tables are half of the file.
if command -v strip >/dev/null; then strip --strip-debug "$to/bin/skep"; fi
"$program" completion bash > "$to/completions/skep.bash"
"$program" completion zsh > "$to/completions/_skep"
"$program" completion fish > "$to/completions/skep.fish"
SKEP_CONFIG= "$program" config example > "$to/config.toml.example"
cp packaging/systemd/*.service "$to/systemd/"
cp packaging/install.sh packaging/uninstall.sh "$to/"
chmod 755 "$to/install.sh" "$to/uninstall.sh"
cp README.md SPECIFICATION.md LICENSE "$to/"
cp -r docs examples "$to/"
# Whose work is inside, and under which licences.
cargo metadata --format-version 1 --locked --offline --filter-platform "$(uname -m)-unknown-linux-gnu" |
  python3 -c '
import json, sys
packages = json.load(sys.stdin)["packages"]
for p in sorted(packages, key=lambda p: (p["name"], p["version"])):
    if p["source"]:
        print(p["name"], p["version"], p["license"] or "see " + (p["license_file"] or "its repository"), p["repository"] or "", sep="  ")
' > "$to/LICENSES-OF-OTHERS.txt"
(cd "$to" && find . -type f ! -name SHA256SUMS -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum > SHA256SUMS)
time=$(git log -1 --format=%ct 2>/dev/null || echo 0)
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$time" -C "$work" -cf - "$name" | gzip --no-name "-${COMPRESSION:-9}" > "$out/$name.tar.gz"
(cd "$out" && sha256sum "$name.tar.gz" > "$name.tar.gz.sha256")
echo "$out/$name.tar.gz"
