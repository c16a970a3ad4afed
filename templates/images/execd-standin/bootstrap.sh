#!/bin/sh
# First process of every sandbox, in place of OpenSandbox's own bootstrap.sh: starts the stand-in for execd in the
# background and becomes the sandbox's entrypoint. `execd` beside this file is a static busybox.
#
# Called with --answer by the listener, it answers one HTTP request on stdin and stdout.
port=44772
cannot="This is Deskfleet's stand-in for OpenSandbox's execd: it answers /ping, but can run no commands, move no files and forward no ports."

respond() { # STATUS BODY
    printf 'HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' "$1" "${#2}" "$2"
}

answer() {
    IFS=' ' read -r _method path _version
    length=0
    while IFS= read -r header; do
        header=${header%"$(printf '\r')"}
        case $header in
        '') break ;;
        [Cc]ontent-[Ll]ength:*) length=${header#*:} ;;
        esac
    done
    # An unread body would make the kernel reset the connection, and the client would never see the answer.
    [ "$length" -eq 0 ] 2>/dev/null || head -c "$((length))" >/dev/null 2>&1
    case $path in
    /ping | /ping\?*) respond "200 OK" '{"status":"ok"}' ;;
    *) respond "404 Not Found" "{\"code\":\"NOT_SUPPORTED\",\"message\":\"$cannot\"}" ;;
    esac
}

listen() {
    # busybox knows which applet to be from the name it is called by.
    applets=$(mktemp -d) || return
    ln -s "$(dirname "$0")/execd" "$applets/nc"
    exec "$applets/nc" -ll -p "$port" -e "$0" --answer
}

if [ "${1:-}" = --answer ]; then
    answer
    exit
fi
listen >/dev/null 2>&1 </dev/null &
exec "$@"
