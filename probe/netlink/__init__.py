"""Netlink on the wire: rtnetlink, sock_diag and ctnetlink."""
