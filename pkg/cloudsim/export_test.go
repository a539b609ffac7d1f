package cloudsim

// FailDisk asks fail before each step of writing a file below Dir: its error is
// that step's.
func (c *Config) FailDisk(fail func(step string) error) { c.disk = disk{fail} }
