# One look at what a host has of KasmVNC: "key value" lines. $HELD and $DECISION are paths. Runs with sh on the host.
. /etc/os-release
echo "system ${VERSION_CODENAME:-?} $(dpkg --print-architecture 2>/dev/null)"
# Installed is what we installed: a package of another version, from elsewhere, is not.
if [ -f $HELD/installed ] && read -r sha256 version < $HELD/installed &&
    [ "$(dpkg-query -W -f='${db:Status-Status} ${Version}' kasmvncserver 2>/dev/null)" = "installed $version" ]
then
    echo "installed $sha256"
fi
for package in $HELD/*.deb; do
    if [ -f "$package" ]; then echo "kept $(sha256sum < "$package" | cut -d' ' -f1)"; fi
done
if [ -f $DECISION ]; then echo "decided $(cat $DECISION)"; fi
