package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"lewes/router"
	"lewes/router/handover"
)

// wished is what signals ask of a running gateway: to read its configuration again, and
// to start its successor.
type wished struct{ reload, upgrade <-chan os.Signal }

const (
	// handOverVariable tells a successor the descriptor by which its predecessor
	// speaks to it.
	handOverVariable = "LEWES_HANDOVER"
	// upgradePatience is how long a successor may take until it could take over, and
	// to do it.
	upgradePatience = time.Minute
	// farewellPatience is how long a successor waits for its predecessor to go.
	farewellPatience = 10 * time.Second
	// metricsListener is by what name the metrics' listener goes to a successor,
	// with its address from the configuration behind it.
	metricsListener = "metrics "
)

// self is this program's file, by the name under which it was started: a newer one may
// have taken its place since.
var self, selfErr = os.Executable()

// upgrade starts this gateway's successor and hands everything over to it. Then this
// process has nothing left to do but to end. If it fails, the gateway goes on as if
// nothing had been, unless the error is router.ErrLost.
func upgrade(ctx context.Context, g *router.Gateway, extras map[string]*os.File, log *zap.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, upgradePatience)
	defer cancel()
	conn, theirs, err := handover.Pair()
	if err != nil {
		return err
	}
	defer conn.Close()
	successor, err := startSuccessor(theirs)
	_ = theirs.Close()
	if err != nil {
		return err
	}
	how, err := g.HandOver(ctx, conn, extras)
	if err != nil {
		_ = successor.Process.Kill() // it may have ended
		ended := successor.Wait()
		if errors.Is(err, router.ErrRefused) {
			return err
		}
		return fmt.Errorf("%w (%s: %s)", err, successor.Path, said(ended))
	}
	pid := successor.Process.Pid
	if err := notify("MAINPID=" + strconv.Itoa(pid)); err != nil {
		log.Warn(err.Error())
	}
	log.Info("handed over to a successor", zap.Int("pid", pid), zap.Int("sessions", how.Sessions), zap.Int("flows", how.Flows), zap.Duration("pause", how.Pause))
	return nil
}

// said is how a process ended.
func said(ended error) string {
	if ended == nil {
		return "exit status 0"
	}
	return ended.Error()
}

// startSuccessor starts this program's file with this process's arguments and
// environment. Its first descriptor behind standard error is the conversation's.
func startSuccessor(conversation *os.File) (*exec.Cmd, error) {
	if selfErr != nil {
		return nil, fmt.Errorf("this program's own file is not known: %w", selfErr)
	}
	cmd := exec.Command(self)
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), handOverVariable+"=3")
	cmd.ExtraFiles = []*os.File{conversation}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the successor: %w", err)
	}
	return cmd, nil
}

// predecessor returns the way to the process that this one is to take over from, nil
// if there is none.
func predecessor() (*handover.Conn, error) {
	number, found := os.LookupEnv(handOverVariable)
	if !found {
		return nil, nil
	}
	if err := os.Unsetenv(handOverVariable); err != nil { // a successor of this one has its own
		return nil, err
	}
	fd, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%s=%q is no descriptor; it is for a gateway that starts its successor", handOverVariable, number)
	}
	return handover.FromFile(os.NewFile(uintptr(fd), handOverVariable))
}

// refuse tells a predecessor why this process does not come to take over.
func refuse(from *handover.Conn, why error) {
	if from != nil && why != nil {
		_ = from.Send(handover.Refused, []byte(why.Error())) // it may have gone
	}
}

// awaitFarewell lets the predecessor tell systemd who goes on, before that one speaks
// for itself.
func awaitFarewell(from *handover.Conn) error {
	_ = from.SetDeadline(time.Now().Add(farewellPatience))
	if f, err := from.Receive(); err == nil {
		f.Close()
	}
	return from.Close()
}

// inheritedListener returns the listener that came under a name that begins with
// prefix and goes on with want, and closes every other one.
func inheritedListener(extras map[string]*os.File, prefix, want string) (found *net.TCPListener) {
	for name, file := range extras {
		if strings.HasPrefix(name, prefix) && name == prefix+want && want != "" {
			listener, err := net.FileListener(file)
			if tcp, ok := listener.(*net.TCPListener); err == nil && ok {
				found = tcp
			}
		}
		_ = file.Close()
	}
	return found
}
