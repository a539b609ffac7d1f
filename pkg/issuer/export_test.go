package issuer

import "time"

// SetPatience changes how long a free call may take.
func (t *Transport) SetPatience(d time.Duration) { t.patience = d }
