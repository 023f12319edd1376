"""The AWS command line, started once: each command is a fork that runs awscli's own main, which saves the imports.

usage: aws_server.py SOCKET

A connection brings one message, JSON {"args": [...], "env": [...], "dir": "..."}, and with it the descriptors of the
three standard streams. The answer is the process id in a line and the exit status in another.
"""
import json, os, signal, socket, sys, traceback

import awscli.clidriver
import awscli.customizations.s3.subcommands, botocore.httpsession, botocore.parsers, botocore.signers, s3transfer.manager  # noqa: what commands import late

MESSAGE = 1 << 20  # bounds the arguments and the environment


def run(args, env, dir):
    data = os.environ["AWS_DATA_PATH"]  # awscli's import has set it
    os.environ.clear()
    os.environ.update({"AWS_DATA_PATH": data})
    os.environ.update(v.split("=", 1) for v in env)
    os.chdir(dir)
    sys.argv = ["aws", *args]
    try:
        return awscli.clidriver.main()
    except SystemExit as e:
        return e.code or 0
    except BaseException:
        traceback.print_exc()
        return 70


def serve(conn):
    message, fds, _, _ = socket.recv_fds(conn, MESSAGE, 3)
    while not message.endswith(b"\n"):
        more = conn.recv(MESSAGE)
        if not more:
            return  # who asked only wanted to know that this is up, or is gone
        message += more
    for standard, fd in enumerate(fds):
        os.dup2(fd, standard)
        os.close(fd)
    conn.sendall(b"%d\n" % os.getpid())
    code = run(**json.loads(message))
    sys.stdout.flush()
    sys.stderr.flush()
    for standard in range(3):
        os.close(standard)
    conn.sendall(b"%d\n" % code)


listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
while True:
    conn, _ = listener.accept()
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        try:
            serve(conn)
        finally:
            os._exit(0)
    conn.close()
