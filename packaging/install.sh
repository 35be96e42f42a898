#!/bin/sh
# Installs what is beside this file: ./install.sh. PREFIX (/usr/local) and DESTDIR choose another place.
set -eu
cd "$(dirname "$0")"
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}
sha256sum --check --quiet SHA256SUMS
install -D -m 755 bin/skep "$root$prefix/bin/skep.new"
# In one step: a program that runs is not written to.
mv "$root$prefix/bin/skep.new" "$root$prefix/bin/skep"
ln -sf skep "$root$prefix/bin/kubectl-skep"
for unit in systemd/*.service; do
  install -d "$root/etc/systemd/system"
  sed "s|/usr/local|$prefix|g" "$unit" > "$root/etc/systemd/system/${unit##*/}"
done
install -D -m 644 completions/skep.bash "$root$prefix/share/bash-completion/completions/skep"
install -D -m 644 completions/_skep "$root$prefix/share/zsh/site-functions/_skep"
install -D -m 644 completions/skep.fish "$root$prefix/share/fish/vendor_completions.d/skep.fish"
find README.md SPECIFICATION.md LICENSE LICENSES-OF-OTHERS.txt docs examples config.toml.example -type f | while read -r file; do
  install -D -m 644 "$file" "$root$prefix/share/doc/skep/$file"
done
install -D -m 755 uninstall.sh "$root$prefix/share/doc/skep/uninstall.sh"
if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
echo "installed in $root$prefix; next: skep doctor, then systemctl enable --now skep (or: skep up)"
