# A bare Debian 12 machine without systemd. BASE holds what a fresh server has, and the README's prerequisites.
ARG BASE
FROM ${BASE}
COPY init /sbin/bare-host-init
STOPSIGNAL SIGTERM
CMD ["/sbin/bare-host-init"]
