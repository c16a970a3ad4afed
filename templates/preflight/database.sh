# What the control plane's database tells preflight: "key value" lines, none where there is no database. $DATABASE
# is SQLite's file, read with whatever Python there is: an earlier roll-out's, or the machine's. Or it is the URL of
# a PostgreSQL database, which only an earlier roll-out's can read; before the first one the server at $REACH
# (host/port) must answer at least. Runs with sh on the host.
case "$DATABASE" in
postgresql://*)
    if [ -n "$REACH" ] && ! timeout 5 bash -c ": <'/dev/tcp/$REACH'" 2>/dev/null; then
        echo "trouble port ${REACH#*/} of ${REACH%/*} does not answer"
        exit 0
    fi
    [ -x "$PYTHON" ] && "$PYTHON" -c "import psycopg" 2>/dev/null || exit 0
    ;;
*)
    [ -f "$DATABASE" ] || exit 0
    echo "database yes"
    [ -x "$PYTHON" ] || PYTHON=$(command -v python3) || { echo "trouble there is no Python to read it with"; exit 0; }
    ;;
esac
"$PYTHON" - "$DATABASE" <<'END'
import sqlite3
import sys

QUERY = (
    "SELECT host, count(*) FROM sandbox_sessions"
    " WHERE terminated_at IS NULL AND kind = 'sandbox' AND host IS NOT NULL GROUP BY host ORDER BY host"
)


def ask(where):
    if not where.startswith("postgresql://"):
        return sqlite3.connect(f"file:{where}?mode=ro", uri=True, timeout=10).execute(QUERY).fetchall()
    import psycopg

    try:
        connection = psycopg.connect(where, connect_timeout=10)
    except psycopg.OperationalError:
        return []  # the password may have changed, and this roll-out brings the new one
    with connection:
        return connection.execute(QUERY).fetchall()


try:
    rows = ask(sys.argv[1])
except Exception as error:
    # Without the table the viewer has never run.
    if "no such table" not in str(error) and type(error).__name__ != "UndefinedTable":
        print("trouble", str(error).splitlines()[0])
else:
    for host, number in rows:
        print("live", host, number)
END
