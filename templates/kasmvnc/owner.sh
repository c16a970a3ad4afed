# Makes $OWNER the owner in $USER's own password file with $PROGRAM (owner.py), which says why root does it himself. The
# password comes from the file $KEY, never as an argument. Runs with sh as root.
set -eu
line="$OWNER:$(openssl passwd -5 -salt kasm -stdin < "$KEY"):rwo"
rm -f "$KEY"
printf '%s\n' "$line" | OWNER=$OWNER USER=$USER HOME_OF=$HOME_OF timeout 20 python3 -I -c "$PROGRAM" set
echo "$STAMP $(printf '%s\n' "$line" | sha256sum | cut -d' ' -f1)" > "$NOTED"
