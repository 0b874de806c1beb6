module rzero.dev/tests/probe

go 1.26
