#!/bin/sh
# A module of waybar: the session as one line of JSON, now and whenever it changes.
get() {
  busctl --user --auto-start=no --json=short get-property org.xrat.Daemon1 /org/xrat/Daemon1 \
    org.xrat.Daemon1.Runtime "$1" 2>/dev/null
}

show() {
  case $(get State) in
  *:1\}) class=disconnected ;; *:2\}) class=connecting ;; *:3\}) class=connected ;; *:4\}) class=replacing ;;
  *:5\}) class=recovering ;; *:6\}) class=failed ;; *:7\}) class=disconnecting ;; *) class=off ;;
  esac
  # The name is quoted for JSON already; waybar wants it quoted for Pango as well.
  name=$(get Session | sed -n 's/.*"name":{"type":"s","data":"\(\([^"\\]\|\\.\)*\)"}.*/\1/p' |
    sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g')
  printf '{"text":"%s","alt":"%s","class":"%s","tooltip":"xrat: %s"}\n' "${name:-$class}" "$class" "$class" "$class"
}

# A line comes when the daemon comes or goes, and with each signal.
gdbus monitor --session --dest org.xrat.Daemon1 --object-path /org/xrat/Daemon1 |
  while read -r first second _; do
    case "$first $second" in
    "The name" | *.StateChanged | *.Rotated) show ;;
    esac
  done
