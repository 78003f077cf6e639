package gatewayd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"go.uber.org/zap"

	"lewes/router"
	"lewes/router/handover"
)

// signals are the requests to a running gateway: reload the configuration, start a successor. Each has
// a channel of its own, so that neither displaces the other.
type signals struct{ reload, upgrade <-chan os.Signal }

const (
	// handoverVariable holds the successor's descriptor of the handover connection.
	handoverVariable = "LEWES_HANDOVER"
	// upgradeTimeout bounds a successor's start and the handover; after upgradeSlow the wait is logged.
	upgradeTimeout = 20 * time.Second
	upgradeSlow    = 5 * time.Second
	// exitTimeout bounds the successor's wait for its predecessor's last message.
	exitTimeout = 10 * time.Second
	// metricsFile names the metrics listener among the files handed over; its configured address
	// follows.
	metricsFile = "metrics "
)

// executable is this program's path as of its start; a newer file may have replaced it since.
var executable, executableErr = os.Executable()

// upgrade starts a successor and hands the gateway over to it. After nil and router.ErrLost this
// process only has to exit; after another error it goes on serving.
func (p *Process) upgrade(ctx context.Context, g *router.Gateway) (*os.Process, error) {
	conn, theirs, err := handover.Pair()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	successor, err := startSuccessor(theirs)
	_ = theirs.Close()
	if err != nil {
		return nil, err
	}
	at := time.Now()
	report, err := g.HandOver(ctx, conn, p.extras)
	if err != nil {
		_ = successor.Process.Kill() // it may have exited
		exit := successor.Wait()
		if errors.Is(err, router.ErrRefused) {
			return nil, err
		}
		status := "exit status 0"
		if exit != nil {
			status = exit.Error()
		}
		return nil, fmt.Errorf("%w (%s: %s)", err, successor.Path, status)
	}
	p.registration.close()
	p.totals.close() // the successor waits for conn's end
	pid := successor.Process.Pid
	p.notify("MAINPID=" + strconv.Itoa(pid))
	p.history.noteUpgrade(&Upgraded{
		At: at, From: os.Getpid(), To: pid, Sessions: report.Sessions, Flows: report.Flows, PauseSeconds: report.Pause.Seconds(),
	})
	p.log.Info("handed over to a successor", zap.Int("pid", pid), zap.Int("sessions", report.Sessions), zap.Int("flows", report.Flows), zap.Duration("pause", report.Pause))
	return successor.Process, nil
}

// startSuccessor starts the program's file with this process's arguments and environment. The handover
// connection is its descriptor 3.
func startSuccessor(conn *os.File) (*exec.Cmd, error) {
	if executableErr != nil {
		return nil, fmt.Errorf("cannot find this program's file: %w", executableErr)
	}
	cmd := exec.Command(executable)
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), handoverVariable+"=3")
	cmd.ExtraFiles = []*os.File{conn}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the successor: %w", err)
	}
	return cmd, nil
}

// predecessor returns the connection to the process to take over from, or nil.
func predecessor() (*handover.Conn, error) {
	number, found := os.LookupEnv(handoverVariable)
	if !found {
		return nil, nil
	}
	if err := os.Unsetenv(handoverVariable); err != nil { // a successor of this process gets its own
		return nil, err
	}
	fd, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%s=%q is not a descriptor: the variable is reserved for handovers", handoverVariable, number)
	}
	return handover.FromFile(os.NewFile(uintptr(fd), handoverVariable))
}

// refuse sends a predecessor the error that keeps this process from taking over.
func refuse(conn *handover.Conn, err error) {
	if conn != nil && err != nil {
		_ = conn.Send(handover.Refused, []byte(err.Error())) // it may have exited
	}
}

// awaitExit waits until the predecessor has reported the new main process to systemd; this process may
// send notifications of its own afterwards.
func awaitExit(conn *handover.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(exitTimeout))
	if f, err := conn.Receive(); err == nil {
		f.Close()
	}
	return conn.Close()
}

// inheritedListener takes the listener with a name out of the inherited files; nil if there is none.
func inheritedListener(files map[string]*os.File, name string) net.Listener {
	file := files[name]
	if file == nil {
		return nil
	}
	delete(files, name)
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil
	}
	return l
}
