// Package container owns the life of containers: what was asked for, what is true now, and what follows from both.
package container
