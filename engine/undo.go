package engine

// undoStack collects how to give back what was taken, beside each taking; run gives back in reverse order. Success is to
// set the stack to nil.
type undoStack []func()

func (u *undoStack) add(f func()) { *u = append(*u, f) }

func (u *undoStack) run() {
	for i := len(*u) - 1; i >= 0; i-- {
		(*u)[i]()
	}
	*u = nil
}
