package cloudsim

import "fmt"

// Flags are the settings that somebody may give on a command line. The tags are
// those of kong, which this package does not need to know.
type Flags struct {
	Aliyun   string `default:"127.0.0.1:5001" help:"Listen address of Alibaba Cloud (CAS, alidns, STS)."`
	Tencent  string `default:"127.0.0.1:5002" help:"Listen address of Tencent Cloud (SSL, DNSPod, STS, CAM)."`
	DNS      string `name:"dns" default:"127.0.0.1:5053" help:"Listen address of the DNS, UDP and TCP."`
	Control  string `default:"127.0.0.1:5080" help:"Listen address of the control port."`
	Resolver string `help:"DNS server (host:port) that is asked for validation, instead of the simulator's own." placeholder:"HOST:PORT"`
	FilePort int    `default:"5081" help:"Port at which FILE challenges are fetched."`
	Dir      string `type:"path" help:"Folder to keep the books in. Default: it forgets."`
}

// Apply writes them into a config. Resolver and Dir hold only where they are
// given.
func (f Flags) Apply(c *Config) {
	c.AliyunAddr, c.TencentAddr, c.DNSAddr, c.ControlAddr, c.FilePort = f.Aliyun, f.Tencent, f.DNS, f.Control, f.FilePort
	if f.Resolver != "" {
		c.Resolver = f.Resolver
	}
	if f.Dir != "" {
		c.Dir = f.Dir
	}
}

// Where tells in lines where everything listens.
func (s *Sim) Where() string {
	return fmt.Sprintf("aliyun   %s\ntencent  %s\ndns      %s\ncontrol  %s\n", s.AliyunURL(), s.TencentURL(), s.DNSAddr(), s.ControlURL())
}
