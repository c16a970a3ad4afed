# Lets $NEW become $PATH_KEPT if it is KasmVNC's package with the sha256 $SHA256. Runs with sh on the host.
set -eu
refuse() { rm -f "$NEW"; echo "$1" >&2; exit 1; }
echo "$SHA256  $NEW" | sha256sum -c --quiet - || refuse "the package of KasmVNC has not the sha256 $SHA256"
name=$(dpkg-deb --field "$NEW" Package)
[ "$name" = kasmvncserver ] || refuse "the file is not KasmVNC's package but '$name'"
chmod 644 "$NEW"
mv -fT "$NEW" "$PATH_KEPT"
