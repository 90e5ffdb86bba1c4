//! Start and stop order, supervision, signals, systemd. Knows no packet.
