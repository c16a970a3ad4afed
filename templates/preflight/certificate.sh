# What Caddy will find in the operator's own certificate files, $CERT and $KEY, as its user $CADDY: lines "missing FILE"
# and "closed FILE", "key fits|foreign|unusable" (none where nothing here can say), and the certificate itself, each
# line after "certificate ". The key never leaves the host.
can_read() {
    if [ "$(id -u)" != 0 ]; then test -r "$1"
    elif id -u "$CADDY" > /dev/null 2>&1; then runuser -u "$CADDY" -- test -r "$1"
    # Before the first roll-out, like anybody who is in no group.
    else setpriv --reuid=65534 --regid=65534 --clear-groups test -r "$1"
    fi
}
for file in "$CERT" "$KEY"; do
    if [ ! -f "$file" ]; then echo "missing $file"; elif ! can_read "$file"; then echo "closed $file"; fi
done
[ -f "$CERT" ] && [ -f "$KEY" ] || exit 0
sed -n '/-----BEGIN CERTIFICATE-----/,/-----END CERTIFICATE-----/{s/^/certificate /p;/-----END/q}' "$CERT" | head -n 200
command -v python3 > /dev/null || exit 0
python3 - "$CERT" "$KEY" <<'END'
import sys

try:
    import ssl
except ImportError:  # Debian's python3-minimal
    sys.exit()
try:
    # Without a password: Caddy has none either.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*sys.argv[1:], password=lambda: "")
    print("key fits")
except ssl.SSLError as error:
    print("key", "foreign" if error.reason == "KEY_VALUES_MISMATCH" else "unusable")
except (OSError, ValueError):
    print("key unusable")
END
