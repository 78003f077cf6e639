// Package doctor checks a machine and a program on it: each finding is ok, a warning or a fault, with the command
// that mends it. The parts of the program register their own checks.
//
//   - doctor.go: [Checks], [Report]
//   - system.go: the checks of a machine
package doctor
