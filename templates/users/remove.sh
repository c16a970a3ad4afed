# Removes the user $OWNER with whatever still runs as it. Runs with sh on the host.
number=$(id -u "$OWNER")
here=$(stat -Lc %d:%i /)
for status in $(grep -ls "^Uid:[[:space:]]*$number[[:space:]]" /proc/[0-9]*/status); do
    process=${status%/status}
    # A container of somebody else's may use the same number; its root directory is another one.
    if [ "$(stat -Lc %d:%i "$process/root" 2>/dev/null)" = "$here" ]; then kill -9 "${process#/proc/}" || true; fi
done
# userdel refuses while one of them is still ending.
for _ in 1 2 3 4 5; do userdel "$OWNER" && break; sleep 0.3; done
! getent passwd "$OWNER" && { ! getent group "$OWNER" || groupdel "$OWNER"; }
