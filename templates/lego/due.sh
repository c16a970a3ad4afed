# due CERTIFICATE: is it time for another one? With 30 days left, or a third of its life where that is shorter.
due() {
    start=$(openssl x509 -in "$1" -noout -startdate 2>/dev/null) || return 0
    end=$(openssl x509 -in "$1" -noout -enddate 2>/dev/null) || return 0
    start=$(date -d "${start#*=}" +%s)
    end=$(date -d "${end#*=}" +%s)
    margin=$(((end - start) / 3))
    [ "$margin" -le 2592000 ] || margin=2592000
    [ $((end - $(date +%s))) -lt "$margin" ]
}
