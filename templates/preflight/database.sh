# What the control plane's database tells preflight: "key value" lines, none where there is no database. $DATABASE
# is its file. Runs with sh on the host, with whatever Python there is: an earlier roll-out's, or the machine's.
[ -f "$DATABASE" ] || exit 0
echo "database yes"
[ -x "$PYTHON" ] || PYTHON=$(command -v python3) || { echo "trouble there is no Python to read it with"; exit 0; }
"$PYTHON" - "$DATABASE" <<'END'
import sqlite3
import sys

QUERY = (
    "SELECT host, count(*) FROM sandbox_sessions"
    " WHERE terminated_at IS NULL AND kind = 'sandbox' AND host IS NOT NULL GROUP BY host ORDER BY host"
)
try:
    rows = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, timeout=10).execute(QUERY).fetchall()
except sqlite3.Error as error:
    # Without the table the viewer has never run.
    if "no such table" not in str(error):
        print("trouble", error)
else:
    for host, number in rows:
        print("live", host, number)
END
