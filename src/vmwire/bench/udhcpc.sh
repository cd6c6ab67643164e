#!/bin/sh
# What busybox's DHCP client runs at each event: put the lease on the card and keep a copy of it.
env | grep -v -E '^(PATH|PWD|SHLVL|HOME|TERM|PS1|PS2)=' | sort > /run/lease."$interface"
case $1 in
    deconfig)
        ip addr flush dev "$interface"
        ip link set "$interface" up
        ;;
    bound | renew)
        ip addr flush dev "$interface"
        ip addr add "$ip/${mask:-24}" dev "$interface"
        [ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
        for gateway in $router; do ip route add default via "$gateway" dev "$interface"; done
        : > /etc/resolv.conf
        [ -n "$domain" ] && echo "search $domain" >> /etc/resolv.conf
        for server in $dns; do echo "nameserver $server" >> /etc/resolv.conf; done
        ;;
esac
