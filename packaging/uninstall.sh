#!/bin/sh
# Takes away what install.sh put there. Data and configuration stay, unless --purge asks for their removal.
set -eu
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}
if [ -z "$root" ] && [ -d /run/systemd/system ]; then
  for unit in skep skep-host skep-registry skep-control-plane; do
    systemctl disable --now "$unit.service" 2>/dev/null || true
  done
fi
# Machines go on when the service stops; nobody would be there to look after them.
if [ -z "$root" ] && [ -x "$prefix/bin/skep" ]; then "$prefix/bin/skep" down; fi
if [ "${1:-}" = --purge ] && [ -z "$root" ]; then rm -rf /var/lib/skep /etc/skep; fi
rm -f "$root$prefix/bin/skep" "$root$prefix/bin/kubectl-skep" \
  "$root$prefix/share/bash-completion/completions/skep" "$root$prefix/share/zsh/site-functions/_skep" \
  "$root$prefix/share/fish/vendor_completions.d/skep.fish"
for unit in skep skep-host skep-registry skep-control-plane; do rm -f "$root/etc/systemd/system/$unit.service"; done
rm -rf "$root$prefix/share/doc/skep"
if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
echo "removed from $root$prefix"
