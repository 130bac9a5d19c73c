#!/bin/sh
# Says how the session is now and each state that it enters, until it is interrupted.
state() {
  case ${1#u } in
  1) echo disconnected ;; 2) echo connecting ;; 3) echo connected ;; 4) echo replacing ;;
  5) echo recovering ;; 6) echo failed ;; 7) echo disconnecting ;; *) echo unknown ;;
  esac
}

# One line a signal: path, name, and the arguments in brackets; and one when the daemon comes or goes.
gdbus monitor --session --dest org.xrat.Daemon1 --object-path /org/xrat/Daemon1 |
  while read -r first signal _ new _ old _; do
    if [ "$signal" = org.xrat.Daemon1.Runtime.StateChanged ]; then
      echo "$(state "${old%,}") -> $(state "${new%,}")"
    elif [ "$first $signal" = "The name" ]; then
      state "$(busctl --user --auto-start=no get-property org.xrat.Daemon1 /org/xrat/Daemon1 \
        org.xrat.Daemon1.Runtime State 2>/dev/null)"
    fi
  done
