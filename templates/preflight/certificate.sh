# What is in the operator's own certificate files, $CERT and $KEY: lines "missing FILE", "key fits|foreign|unusable"
# (none where nothing here can say), and the certificate itself, each line after "certificate ". The key never leaves
# the host.
for file in "$CERT" "$KEY"; do
    [ -f "$file" ] || echo "missing $file"
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
